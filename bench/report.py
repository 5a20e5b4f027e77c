"""What the parts of a report have in common."""


def verdict(reached):
    return "reached" if reached else "MISSED"
