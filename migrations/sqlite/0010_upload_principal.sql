-- How many uploads somebody has open is asked when one begins.
CREATE INDEX uploads_principal ON uploads (principal);
