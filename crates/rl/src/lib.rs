//! The mathematics of RLHF on plain numbers: KL, rewards, advantages, statistics, alarms.
