-- The key is composite; with the member fixed, its second half is unique.
SELECT l.loan_no, l.isbn, b.title, b.published_on, l.period, l.state, l.fine, l.remind_after
FROM library.loans AS l
JOIN library.books AS b USING (isbn)
WHERE l.member_no = $1
ORDER BY l.loan_no
