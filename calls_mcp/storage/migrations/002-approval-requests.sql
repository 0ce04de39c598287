CREATE TABLE cases (
    identifier TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    "case" TEXT NOT NULL,
    asked_at REAL NOT NULL,
    lapses_at REAL NOT NULL,
    ruling TEXT
);
CREATE INDEX cases_by_age ON cases (asked_at);
CREATE INDEX cases_to_forget ON cases (lapses_at);
CREATE INDEX cases_undecided ON cases (principal) WHERE ruling IS NULL;
