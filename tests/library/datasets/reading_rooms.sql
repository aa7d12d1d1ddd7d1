-- Two joins away, and from an integer column: without the cast $1 would be an integer too.
SELECT b.day, b.from_time, b.seat_code, r.name AS room, r.location
FROM library.seat_bookings AS b
JOIN library.seats AS s ON s.seat_code = b.seat_code
JOIN library.reading_rooms AS r ON r.room_no = s.room_no
WHERE b.member = $1::bigint
ORDER BY b.day, b.seat_code
