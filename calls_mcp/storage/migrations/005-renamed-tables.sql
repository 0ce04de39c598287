UPDATE confirmations
SET pending = json_set(pending, '$.for_operator', json('true'))
WHERE json_extract(pending, '$.is_filed');

CREATE TABLE approval_requests (
    identifier TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    request TEXT NOT NULL,
    asked_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    decision TEXT
);
INSERT INTO approval_requests (identifier, owner, request, asked_at, expires_at, decision)
SELECT
    identifier,
    principal || char(10),
    json_remove(json_set("case", '$.expires_at', lapses_at), '$.lapses_at'),
    asked_at,
    lapses_at,
    ruling
FROM cases;
DROP TABLE cases;
CREATE INDEX requests_by_age ON approval_requests (asked_at);
CREATE INDEX requests_to_forget ON approval_requests (expires_at);
CREATE INDEX requests_undecided ON approval_requests (owner) WHERE decision IS NULL;
-- Everything that a page of pending requests needs to know, except the requests themselves.
CREATE INDEX requests_pending ON approval_requests (expires_at, asked_at, identifier, decision)
WHERE decision IS NULL;

-- Hits and reservations, which count until they expire.
CREATE TABLE counts (
    key TEXT NOT NULL,
    entry TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, entry)
) WITHOUT ROWID;
INSERT INTO counts (key, entry, until)
SELECT
    'reserved/' || substr(key, length('entered/') + 1),
    substr(entry, 1, length(entry) - length('.0')),
    until
FROM entries WHERE key LIKE 'entered/%';
-- Hits were kept under NAME/KEY/AMOUNT/SECONDS/second.
INSERT INTO counts (key, entry, until)
SELECT
    'hits/' || substr(key, 1, length(key) - 1),
    substr(entry, 1, length(entry) - length('.0')),
    until
FROM (
    SELECT rtrim(substr(key, 1, length(key) - 1), '0123456789') AS key, entry, until
    FROM (
        SELECT
            rtrim(substr(key, 1, length(key) - length('/second')), '0123456789') AS key,
            entry,
            until
        FROM entries WHERE key LIKE '%/second' AND key NOT LIKE 'entered/%'
    )
);
CREATE INDEX counts_to_forget ON counts (until);
DROP TABLE entries;

CREATE TABLE notes (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO notes (key, text, until)
SELECT substr(key, length('noted/') + 1), text, until FROM marks WHERE key LIKE 'noted/%';
CREATE INDEX notes_to_forget ON notes (until);
DROP TABLE marks;
