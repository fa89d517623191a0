"""Who a client is, and whether he may use a route: one file a way of authentication.

Reading order: `caller` (who asks for what), `identity` (who he turned out to be, or why he was denied), `auth` (what
every way takes and gives), then the single ways (beside `basic`: `htpasswd` with `scrypt` and `bcrypt`, `passwords`;
beside `ticket`: `spent`), and `any_of` and `all_of`, which hold several. Must not live here: who may use a route by
Host or Origin (`admit`), what becomes of a denial (`access`).
"""
