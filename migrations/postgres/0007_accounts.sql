-- AWS accounts whose machines may pull.
SELECT 1;
