"""The state store: an SQLite file, memory, or Redis.

The default is the user's own database (see `database.default_path`), which is created at the first
change and shared by all processes of the user. `sqlite:///FILE` is another file (an absolute path
has four slashes), `memory:` is lost when the process exits, and `redis://…` and `rediss://…` are
shared by replicas on any machine.
"""
