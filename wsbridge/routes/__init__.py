"""What a route does with a request that matched it and is not relayed: static files, fixed answers and tickets.

Reading order: `answer` (what every such route gives back, and the route of one fixed status), `media_types`, `files`,
`ticket`. Admission, which picks the route, lives beside them; nothing here writes to a socket.
"""
