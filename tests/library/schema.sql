-- A public library's tables: as unlike the sample application as an operator's may be.
-- Its users have numbers; legacy columns, composite keys, link tables and every awkward type lie about.

CREATE SCHEMA library;

CREATE TYPE library.loan_state AS ENUM ('on loan', 'returned', 'lost, "paid"');
CREATE TYPE library.address AS (street text, house_no int, town text);
CREATE DOMAIN library.isbn AS text CHECK (value ~ '^97[89][0-9]{10}$');

CREATE TABLE library.members (
    member_no    bigint PRIMARY KEY,
    mail         text NOT NULL UNIQUE,
    full_name    text NOT NULL,
    pin_hash     text NOT NULL,
    joined_on    date NOT NULL,
    member_until date NOT NULL DEFAULT 'infinity',
    opens_at     time,
    interests    text[] NOT NULL DEFAULT '{}',
    home         library.address,
    card_photo   bytea
);

CREATE TABLE library.books (
    isbn         library.isbn PRIMARY KEY,
    title        text NOT NULL,
    published_on date
);

CREATE TABLE library.loans (
    member_no    bigint NOT NULL REFERENCES library.members,
    loan_no      smallint NOT NULL,
    isbn         library.isbn NOT NULL REFERENCES library.books,
    period       tstzrange NOT NULL,
    state        library.loan_state NOT NULL,
    fine         numeric,
    remind_after interval NOT NULL DEFAULT '21 days',
    staff_note   text,
    PRIMARY KEY (member_no, loan_no)
);

CREATE TABLE library.reviews (
    review_no bigint PRIMARY KEY,
    isbn      library.isbn NOT NULL REFERENCES library.books,
    stars     real NOT NULL,
    verdict   text,
    scores    int[][],
    raw       json
);

-- A review may have several authors.
CREATE TABLE library.review_authors (
    review_no bigint NOT NULL REFERENCES library.reviews,
    member_no bigint NOT NULL REFERENCES library.members,
    PRIMARY KEY (review_no, member_no)
);

CREATE TABLE library.reading_rooms (
    room_no  int PRIMARY KEY,
    name     varchar(40) NOT NULL UNIQUE,
    location point
);

CREATE TABLE library.seats (
    seat_code char(5) PRIMARY KEY,
    room_no   int NOT NULL REFERENCES library.reading_rooms
);

-- The member's number is an integer here: the table is older than the others.
CREATE TABLE library.seat_bookings (
    member    int NOT NULL,
    seat_code char(5) NOT NULL REFERENCES library.seats,
    day       date NOT NULL,
    from_time timetz NOT NULL,
    PRIMARY KEY (seat_code, day)
);
