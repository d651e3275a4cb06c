"""Servers worth checking, for scripts/compare: one nginx and one MariaDB, each a thousand servers by as many addresses."""

import os
import pwd
import subprocess
import urllib.request

from ground import Failure, accepts, await_fact, free_port, need

USER = "lbcheck"


def start_nginx(children, place, core):
    """Answers every request with 200; the port."""
    place.mkdir(parents=True)
    port = free_port("0.0.0.0")
    config = place / "nginx.conf"
    config.write_text(f"""
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log error;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location / {{ return 200 "well\\n"; }}
    }}
}}
""")
    children.start(["nginx", "-p", place, "-c", config], core, place / "output")
    await_fact(f"nginx on port {port} (see {place}/output)", lambda: accepts(("127.0.0.1", port)))
    return port


def start_mariadb(children, place, core):
    """With an account for the check that may do nothing else; the port."""
    need("mariadbd", "mariadb-install-db", "mariadb")
    place.mkdir(parents=True)
    port, data, sock = free_port("0.0.0.0"), place / "data", place / "mysqld.sock"
    user = pwd.getpwuid(os.geteuid()).pw_name
    install = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}", "--skip-test-db",
               "--auth-root-authentication-method=normal"]
    said = subprocess.run(install, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise Failure(f"mariadb-install-db failed: {(said.stdout + said.stderr).strip()[-1000:]}")
    server = children.start(
        ["mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", f"--tmpdir={place}", f"--socket={sock}",
         f"--port={port}", "--bind-address=0.0.0.0", "--read-only=1", "--max-connections=4000", "--back-log=4096", "--skip-name-resolve", "--thread-handling=pool-of-threads",
         f"--pid-file={place}/pid", "--innodb-buffer-pool-size=32M"], core, place / "output")
    await_fact(f"MariaDB on port {port} (see {place}/output)",
               lambda: server.poll() is not None or accepts(("127.0.0.1", port)), 60)
    grant = f"CREATE USER {USER}@'%'; GRANT REPLICA MONITOR ON *.* TO {USER}@'%'"
    said = subprocess.run(["mariadb", "--no-defaults", "--user=root", f"--socket={sock}", "-e", grant],
                          capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise Failure(f"mariadb: {said.stderr.strip()}")
    return port


def servers_up(admin):
    """How many servers a ringway says are up."""
    with urllib.request.urlopen(f"http://{admin[0]}:{admin[1]}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return sum(line.startswith("ringway_server_state{") and 'state="up"' in line and line.endswith(" 1") for line in lines)
