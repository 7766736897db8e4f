"""Commands: requests that one context owns and may refuse; sent by anyone, handled by one."""
