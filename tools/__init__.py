"""What is run but not deployed: the sandbox AiFi, the demo, pictures and bench."""
