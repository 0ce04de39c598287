-- Everything that a page of pending requests needs to know, except the requests themselves.
CREATE INDEX cases_waiting ON cases (lapses_at, asked_at, identifier, ruling) WHERE ruling IS NULL;
