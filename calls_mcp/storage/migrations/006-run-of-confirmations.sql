-- See `Database.run`. Earlier versions had none.
ALTER TABLE confirmations ADD COLUMN run TEXT;
