-- No tables: each test makes those of its application.
SELECT 1;
