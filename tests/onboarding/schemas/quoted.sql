-- Names that must be quoted: reserved words, capitals, spaces, quotes, and some that would collide in a CSV's header.

CREATE SCHEMA "the Dept";

CREATE TABLE "User" (
    "id"        text PRIMARY KEY,
    "email"     text NOT NULL,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "authToken" text
);

CREATE TABLE "order" (
    "id"      integer PRIMARY KEY,
    "userId"  text NOT NULL REFERENCES "User",
    "select"  integer,
    "item_id" integer
);

CREATE TABLE "order_item" ("id" integer PRIMARY KEY, "userId" text NOT NULL REFERENCES "User");

CREATE TABLE "the Dept"."order" ("id" integer PRIMARY KEY, "userId" text NOT NULL REFERENCES "User");

CREATE TABLE "the Dept"."Line of ""order""" (
    "No."      integer PRIMARY KEY,
    "order id" integer NOT NULL REFERENCES "the Dept"."order",
    "amount %" numeric
);

CREATE TABLE "orderNotes" (
    "noteId"  integer NOT NULL,
    "orderId" integer NOT NULL REFERENCES "order",
    "seenAt"  timestamptz,
    PRIMARY KEY ("orderId", "noteId")
);
