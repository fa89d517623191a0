"""The commands: their arguments in this process, what they do as processes of their own."""
