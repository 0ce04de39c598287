CREATE TABLE confirmations (
    identifier TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    pending TEXT NOT NULL,
    forget_at REAL NOT NULL,
    claimed_at REAL,
    outcome TEXT
);
CREATE INDEX confirmations_to_forget ON confirmations (forget_at);
CREATE INDEX confirmations_unused ON confirmations (principal) WHERE claimed_at IS NULL;
CREATE TABLE entries (
    key TEXT NOT NULL,
    entry TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, entry)
) WITHOUT ROWID;
CREATE INDEX entries_to_forget ON entries (until);
CREATE TABLE marks (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX marks_to_forget ON marks (until);
