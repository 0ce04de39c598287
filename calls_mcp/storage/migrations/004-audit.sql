CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    tool TEXT,
    sid TEXT,
    principal TEXT,
    decision TEXT,
    account_sid TEXT,
    prev TEXT NOT NULL,
    hash TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX audit_time ON audit (time);
CREATE INDEX audit_sid ON audit (sid);
-- The triggers prevent accidents. Against intruders there is the chain of hashes.
CREATE TRIGGER audit_keeps BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
