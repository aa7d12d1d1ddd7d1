-- Through a link table: a review with two authors is in both their exports.
SELECT r.review_no, r.isbn, r.stars, r.verdict, r.scores, r.raw
FROM library.reviews AS r
JOIN library.review_authors AS a ON a.review_no = r.review_no
WHERE a.member_no = $1
ORDER BY r.review_no
