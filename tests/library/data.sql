INSERT INTO library.members (member_no, mail, full_name, pin_hash, joined_on, member_until, opens_at, interests, home, card_photo)
VALUES
    (1, 'hypatia@library.example', 'Hypatia', 'canary-never-exported-1', '0390-03-08', DEFAULT, '23:59:59.999999',
     '{astronomy,"conic sections, 8 books",NULL,"\"quoted\"",""}', ('Canopic Way', 1, 'Alexandria'), '\x89504e470d0a1a0a00ff'),
    (2, 'jorge@library.example', 'Jorge Luis Borges', 'canary-never-exported-2', '1937-01-08', '1986-06-14', NULL,
     '{}', ('Maipú', NULL, 'Buenos "Aires"'), ''),
    (9223372036854775807, 'last@library.example', 'The Last Member', 'canary-never-exported-3', '2026-01-01', DEFAULT,
     '24:00', '{}', NULL, NULL);

INSERT INTO library.books (isbn, title, published_on) VALUES
    ('9780140444339', 'The Gallic War', '0050-01-01 BC'),
    ('9780802130303', 'Ficciones', '1944-01-01'),
    ('9783161484100', 'A Book Without a Date', NULL);

INSERT INTO library.loans (member_no, loan_no, isbn, period, state, fine, remind_after, staff_note) VALUES
    (1, 1, '9780140444339', '[2026-01-05 10:00Z,2026-01-19 10:00Z)', 'returned', 0.00, DEFAULT, 'canary-never-exported-4'),
    (1, 2, '9780802130303', '[2026-02-01 09:30Z,)', 'on loan', NULL, '1 mon 1 day', NULL),
    (1, 3, '9783161484100', 'empty', 'lost, "paid"', 12345678901234567890.123456789, '-00:00:00.000001', NULL),
    (2, 1, '9780802130303', '(,infinity)', 'returned', 'NaN', '178000000 years', NULL);

INSERT INTO library.reviews (review_no, isbn, stars, verdict, scores, raw) VALUES
    (7, '9780140444339', 0.1, '<p class="dry">all of it, "divided"</p>', '{{1,2},{3,NULL}}', '{"b": 1, "a":  [1.50, null]}'),
    (8, '9780802130303', 'NaN', NULL, NULL, NULL),
    (9, '9783161484100', 'Infinity', '', '{}', '"=1+1"');

INSERT INTO library.review_authors (review_no, member_no) VALUES (7, 1), (8, 1), (8, 2), (9, 2);

INSERT INTO library.reading_rooms (room_no, name, location) VALUES
    (1, 'Old Hall', '(52.5, 13.375)'),
    (2, E'R\u00FCckert''s "Quiet" Room', NULL);

INSERT INTO library.seats (seat_code, room_no) VALUES ('A1', 1), ('A2', 1), ('B-001', 2);

INSERT INTO library.seat_bookings (member, seat_code, day, from_time) VALUES
    (1, 'A1', '2026-03-01', '09:00+01'),
    (1, 'B-001', '2026-03-01', '14:30-05:30'),
    (2, 'A1', '2026-03-02', '09:00Z');
