"""What routes respond themselves: static files and fixed statuses."""
