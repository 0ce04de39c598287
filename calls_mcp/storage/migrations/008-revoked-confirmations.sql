-- Not NULL if the file may have been restored since the confirmation was issued.
ALTER TABLE confirmations RENAME COLUMN run TO revoked;
