-- Find the records about a call, and those that led to it. An edited body may not be JSON.
CREATE INDEX IF NOT EXISTS audit_sid ON audit (sid) WHERE sid IS NOT NULL;
CREATE INDEX IF NOT EXISTS audit_id
ON audit (CASE WHEN json_valid(body) THEN json_extract(body, '$.id') END);
CREATE INDEX IF NOT EXISTS audit_approval
ON audit (CASE WHEN json_valid(body) THEN json_extract(body, '$.approval_id') END);
