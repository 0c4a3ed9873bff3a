-- Tags that a new registry lets move beside latest and *-SNAPSHOT: build caches, and what
-- clients keep under the digest of an image (docs/decisions/0008-tags-that-may-move.md).
-- A registry that is in use, so has its first user, keeps the policy that it has.
INSERT INTO tag_policy_exemptions (policy_id, pattern)
SELECT 1, d.pattern
  FROM (SELECT 'buildcache' AS pattern UNION ALL SELECT 'buildcache-*' UNION ALL SELECT '*-buildcache'
        UNION ALL SELECT 'cache' UNION ALL SELECT 'sha256-*' UNION ALL SELECT 'sha512-*') AS d
 WHERE NOT EXISTS (SELECT 1 FROM users);
