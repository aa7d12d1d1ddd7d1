-- The member, under the names an export's profile needs.
SELECT member_no AS id, mail AS email, full_name AS name, joined_on, member_until, opens_at, interests, home, card_photo
FROM library.members
WHERE member_no = $1
