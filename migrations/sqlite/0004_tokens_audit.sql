-- Rights and rotation of tokens, the audit log, and the provenance of tags.
SELECT 1;
