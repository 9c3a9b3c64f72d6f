"""Studies in which people judge what systems wrote (Ramamurthy et al., section 5 and appendix)."""
