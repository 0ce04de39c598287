BEGIN TRANSACTION;
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
CREATE TABLE entries (
    key TEXT NOT NULL,
    entry TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, entry)
) WITHOUT ROWID;
INSERT INTO "entries" VALUES('calls_per_day/all/9/86400/second','Ijj-deT0q8Yq.0',1893456000.0,1893542400.0);
INSERT INTO "entries" VALUES('entered/in_flight/all','Cw5sZA4IFyMW.0',1893456000.0,1893456600.0);
CREATE TABLE marks (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "marks" VALUES('noted/number:AC0:+15005550205','',1893456600.0);
CREATE INDEX confirmations_to_forget ON confirmations (forget_at);
CREATE INDEX confirmations_unused ON confirmations (principal)
    WHERE claimed_at IS NULL;
CREATE INDEX entries_to_forget ON entries (until);
CREATE INDEX marks_to_forget ON marks (until);
COMMIT;
PRAGMA user_version = 1;
