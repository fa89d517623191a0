"""Start nginx with its module websockify, plain or with the argument `tls`: its configuration cannot name the ports."""

import os
import sys
from pathlib import Path

SERVER = """
    server {{
        listen 127.0.0.1:{listen}{tls};
        location / {{ websockify_pass 127.0.0.1:{backend}; }}
    }}
"""
MAIN = """
daemon off;
worker_rlimit_nofile 20000;
error_log stderr;
pid {lab}/nginx{tls}.pid;
events {{ worker_connections 20000; }}
http {{
    access_log {lab}/nginx-access.log;
    ssl_certificate {lab}/cert.pem;
    ssl_certificate_key {lab}/key.pem;
    {paths}
    {servers}
}}
"""
PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

lab, tls = os.environ["LAB"], " ssl" if "tls" in sys.argv else ""
services = [(os.environ[f"LISTEN_{name}"], os.environ[f"BACKEND_{name}"]) for name in ("ECHO", "SOURCE", "SINK")]
servers = "".join(SERVER.format(listen=listen, backend=backend, tls=tls) for listen, backend in services)
paths = " ".join(f"{name}_temp_path {lab}/nginx-{name};" for name in PATHS)
conf = Path(lab, f"nginx{tls.strip()}.conf")
conf.write_text(MAIN.format(lab=lab, tls=tls.strip(), paths=paths, servers=servers))
program = "nginx-websockify"
os.execlp(program, program, "-c", str(conf))
