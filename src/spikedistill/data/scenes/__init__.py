"""Recordings with boxes: windows of events before labelled times, as samples of detection."""
