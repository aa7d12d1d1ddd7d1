-- The rules that allow a user another export: one row, of the export that answers the request or refuses it, if any (the
-- one that an earlier request with the same idempotency key made, or else the one that runs), and of the seconds to wait
-- for the rates and for the kept files, if they refuse it: until the oldest of the last per_hour exports of this hour is an
-- hour old, and until fewer than kept_files files are kept if none is deleted. An export that failed, or was cancelled
-- before its work began, counts only for the second rate, of accepted_per_hour exports: a client that repeats such
-- exports must end, too.
-- With take_turn, the user's other requests wait until this transaction ends: so the function is volatile, and what it
-- reads after its turn came is what the holder before it has committed. One statement reads it, and so one snapshot: with
-- two, a repeated request could be refused because of the export that its own key has made between them.

CREATE FUNCTION carryout.find_admission(
  of_user carryout.user_id, of_key text, per_hour integer, max_kept_files integer, accepted_per_hour integer,
  take_turn boolean
)
RETURNS TABLE (
  known carryout.export_jobs, expired boolean, is_earlier boolean,
  rate_wait integer, accepted_wait integer, kept_files_wait integer
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF take_turn THEN
    -- A row lock, because any role may hold any advisory lock. Users who share a slot wait for each other briefly.
    PERFORM FROM carryout.turns WHERE slot = hashtextextended(of_user::text, 0) & 1023 FOR NO KEY UPDATE;
  END IF;
  RETURN QUERY
  SELECT found.job, found.has_expired, found.has_key, (
    SELECT ceil(extract(epoch FROM j.created_at + interval '1 hour' - now()))::int
    FROM carryout.export_jobs AS j
    WHERE j.user_id = of_user AND j.created_at > now() - interval '1 hour'
      AND NOT (j.status = 'failed' AND (j.failures > 0 OR j.started_at IS NULL))
    ORDER BY j.created_at DESC
    OFFSET per_hour - 1 LIMIT 1
  ), (
    SELECT ceil(extract(epoch FROM j.created_at + interval '1 hour' - now()))::int
    FROM carryout.export_jobs AS j
    WHERE j.user_id = of_user AND j.created_at > now() - interval '1 hour'
    ORDER BY j.created_at DESC
    OFFSET accepted_per_hour - 1 LIMIT 1
  ), (
    SELECT ceil(extract(epoch FROM j.expires_at - now()))::int
    FROM carryout.export_jobs AS j
    WHERE j.user_id = of_user AND j.status = 'completed' AND j.expires_at > now()
      AND j.file_missing_at IS NULL
    ORDER BY j.expires_at DESC
    OFFSET max_kept_files - 1 LIMIT 1
  )
  FROM (SELECT) AS always
  LEFT JOIN (
    SELECT j AS job, coalesce(j.expires_at <= now(), false) AS has_expired, true AS has_key
    FROM carryout.export_jobs AS j
    WHERE j.user_id = of_user AND j.idempotency_key = of_key AND j.created_at > now() - interval '24 hours'
    UNION ALL
    SELECT j, false, false
    FROM carryout.export_jobs AS j
    WHERE j.user_id = of_user AND j.status IN ('pending', 'processing')
    ORDER BY has_key DESC
    LIMIT 1
  ) AS found ON true;
END
$$;
