-- Which file was in use, since which start of the machine. Earlier versions had none.
ALTER TABLE confirmations ADD COLUMN run TEXT;
