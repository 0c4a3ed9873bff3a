-- Whether the tokens of a service leave out the certificates (x5c), for registries that have the keys as a JWKS.
ALTER TABLE services ADD COLUMN omit_x5c BOOLEAN NOT NULL DEFAULT FALSE;
