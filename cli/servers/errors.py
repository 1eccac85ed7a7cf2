"""Errors of calibrating on servers, each one sentence with the way out."""

from __future__ import annotations

from ...calibration.errors import StudioError


class RequestError(StudioError):
    """The workflow, the prompts, an option or the work folder cannot be used."""


class ServerError(StudioError):
    """A server answered, but not with what was asked for."""


class Unreachable(ServerError):
    """A server does not answer, or its answer broke off."""


class JobFailed(ServerError):
    """The generation failed on this server; another server may be luckier."""
