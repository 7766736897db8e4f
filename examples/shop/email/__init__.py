"""E-mail, in three releases, as they would follow one another in a repository's history: `release_1` has a bug,
`release_2` renames a handler and adds one, `release_3` mends the bug."""
