-- Retention, what can be undone, and quotas.
SELECT 1;
