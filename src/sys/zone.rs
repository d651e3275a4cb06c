//! The local time zone: tzset(3), localtime(3).

use std::mem::MaybeUninit;

/// How far local time is ahead of UTC at a moment, in seconds; 0 where that cannot be known.
pub fn offset_s(unix_s: u64) -> i32 {
    let Ok(moment) = libc::time_t::try_from(unix_s) else {
        return 0;
    };
    let mut parts = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to live memory of the right type. localtime_r(3) is thread-safe as long as nobody changes
    // the environment; ringway never does. It fills `parts` exactly when it does not answer null.
    let offset = unsafe {
        match libc::localtime_r(&raw const moment, parts.as_mut_ptr()).is_null() {
            true => 0,
            false => parts.assume_init_ref().tm_gmtoff,
        }
    };
    i32::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_less_than_a_day_and_changes_with_the_quarter_hour() {
        for moment in [0, 951_827_696, 1_785_000_000, u64::from(u32::MAX)] {
            let offset = offset_s(moment);
            assert!(offset.abs() < 86_400, "{offset}");
            let within = moment - moment % 900;
            assert_eq!(offset_s(within), offset_s(within + 899));
        }
        assert_eq!(offset_s(u64::MAX), 0);
    }
}
