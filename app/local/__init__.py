"""What runs on one machine and is not the service: the command line, the stack, its embedded servers."""
