"""What the stack needs before its first start: Grafana's password, and the token.

Run by ``docker-compose.yml`` in the exporter's image, as its user, before all others.
The token is where the exporter itself would keep it, beside the journal. Each is made
once, and printed when it is made; at later starts only the addresses are.
"""

import os
from pathlib import Path

from exporter import tokenfile


def main() -> None:
    """Make what is not there, and say where everything is."""
    journal, password_file = (
        Path(os.environ[name])
        for name in ("EPISIGHT_JOURNAL_PATH", "GRAFANA_PASSWORD_FILE")
    )
    token = tokenfile.make(journal.parent / tokenfile.NAME)
    password = tokenfile.make(password_file)
    # Grafana runs as another user; the volume is mounted there and here, nowhere else.
    password_file.chmod(0o444)
    print(f"Runs:     {os.environ['PAGE_URL']}/" + (f"?token={token}" if token else ""))
    print(f"Grafana:  {os.environ['GRAFANA_URL']}/")
    if password:
        print(f"          user: admin  password: {password}")
    if token or password:
        print("Secrets are shown this once: docs/stack.md says how to see them again.")


if __name__ == "__main__":
    main()
