"""Authentication: who a client is and whether it may use a route; one file per authentication method.

Reading order: `identity` (the authenticated client, or why access was denied), `base` (the interface of every method),
`credentials` (where tokens are read from), then the methods. `passwords` belongs to `basic`, `jwt_keys` and `jwks` to
`jwt`, `replay` to `ticket`; `network` also has the combinations `any_of` and `all_of`.
"""
