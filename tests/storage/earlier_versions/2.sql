BEGIN TRANSACTION;
CREATE TABLE cases (
    identifier TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    "case" TEXT NOT NULL,
    asked_at REAL NOT NULL,
    lapses_at REAL NOT NULL,
    ruling TEXT
);
INSERT INTO "cases" VALUES('asked','ann','{"identifier":"asked","binding":{"tool":"create_call","arguments":"digest","principal":"ann"},"action":"place","preview":"Place a call.","client":"probe 1","rule":"confirm.place","asked_at":1893456000.0,"lapses_at":1893456900.0}',1893456000.0,1893456900.0,NULL);
INSERT INTO "cases" VALUES('denied','ann','{"identifier":"denied","binding":{"tool":"create_call","arguments":"digest","principal":"ann"},"action":"place","preview":"Place another.","client":"probe 1","rule":"confirm.place","asked_at":1893456000.0,"lapses_at":1893456900.0}',1893456000.0,1893456900.0,'{"is_approval":false,"by":"bob","at":1893456000.0,"reason":"no"}');
CREATE TABLE confirmations (
    identifier TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    pending TEXT NOT NULL,
    forget_at REAL NOT NULL,
    claimed_at REAL,
    outcome TEXT
);
INSERT INTO "confirmations" VALUES('unused','ann','{"binding":{"tool":"create_call","arguments":"digest","principal":"ann"},"state":"queued","expires_at":1893456300.0}',1893459900.0,NULL,NULL);
INSERT INTO "confirmations" VALUES('used','ann','{"binding":{"tool":"create_call","arguments":"digest","principal":"ann"},"state":"queued","expires_at":1893456300.0}',1893459900.0,1893456000.0,'{"outcome": "done", "warnings": ["f\u00fcr \u00e4"]}');
INSERT INTO "confirmations" VALUES('asked','ann','{"binding":{"tool":"create_call","arguments":"digest","principal":"ann"},"state":"queued","expires_at":1893457800.0}',1893461400.0,NULL,NULL);
INSERT INTO "confirmations" VALUES('denied','ann','{"binding":{"tool":"create_call","arguments":"digest","principal":"ann"},"state":"queued","expires_at":1893457800.0}',1893461400.0,NULL,NULL);
CREATE TABLE entries (
    key TEXT NOT NULL,
    entry TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, entry)
) WITHOUT ROWID;
INSERT INTO "entries" VALUES('calls_per_day/all/9/86400/second','8h_30-toy76Z.0',1893456000.0,1893542400.0);
INSERT INTO "entries" VALUES('entered/in_flight/all','m5RUobz-Hr3H.0',1893456000.0,1893456600.0);
CREATE TABLE marks (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "marks" VALUES('noted/number:AC0:+15005550205','noted',1893456600.0);
CREATE INDEX confirmations_to_forget ON confirmations (forget_at);
CREATE INDEX confirmations_unused ON confirmations (principal)
    WHERE claimed_at IS NULL;
CREATE INDEX entries_to_forget ON entries (until);
CREATE INDEX marks_to_forget ON marks (until);
CREATE INDEX cases_by_age ON cases (asked_at);
CREATE INDEX cases_to_forget ON cases (lapses_at);
CREATE INDEX cases_undecided ON cases (principal) WHERE ruling IS NULL;
COMMIT;
PRAGMA user_version = 2;
