-- Registries that delegate their sign-in to us, and their keys.
SELECT 1;
