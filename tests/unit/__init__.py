"""One file a room of the product; no process and no socket."""
