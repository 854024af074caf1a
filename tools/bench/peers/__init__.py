"""What one would use instead of the bridge: programs that run in virtual environments of their own."""
