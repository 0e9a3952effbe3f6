"""The report: one page of a batch that a person would rather look at than read.

It is made of the ledger alone and asks nobody for anything: script and style are inside it, videos
and pictures lie where they are. Every text of other people reaches the page as data, never as
markup.
"""

from __future__ import annotations

from grok_video._report._reading import command_beside, count_states, read

__all__ = ["command_beside", "count_states", "read"]
