"""The real gunicorn of the Procfile, a real disk, a sandbox AiFi over HTTP; one file a theme."""
