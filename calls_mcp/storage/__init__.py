"""Where state is kept: SQLite files and Redis."""
