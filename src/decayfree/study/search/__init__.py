"""Which learning rate and weight decay do validation images choose?"""
