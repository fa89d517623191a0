"""What a route does with a request that matched it and is not relayed: static files and fixed answers.

Reading order: `answer` (what every such route gives back, and the route of one fixed status), `media_types`, `files`.
Admission, which picks the route, lives beside them; nothing in `answer` and `files` writes to a socket.
"""
