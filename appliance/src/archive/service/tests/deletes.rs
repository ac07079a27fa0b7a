//! Tests with objects that a store refuses to delete.

use super::*;

#[test]
fn an_object_that_the_store_refuses_to_delete_keeps_no_other() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let options = options(VerifyPolicy::Tail);
    let stretches = [1, 2, 3].map(|sequence| stretch(sequence, 256, 0, 256));
    for stretch in &stretches {
        run(stretch, &mut stretch.source(), &*store, &options).unwrap();
    }
    let ids = stretches.map(|stretch| stretch.job.id);
    store.add(Call::Delete, When::Nth(1), Fault::Error(StoreErrorKind::Refused("locked")));
    let error = delete(&*store, &ids, &TablesCache::default(), &options).unwrap_err();
    assert!(is_retry(&error) && error.to_string().contains("locked"), "{error}");
    let left = store.list("", None, 10).unwrap().objects;
    assert_eq!(left.iter().map(|stat| stat.name.clone()).collect::<Vec<_>>(), [ids[0].name().unwrap()]);
    assert_eq!(delete(&*store, &ids, &TablesCache::default(), &options).unwrap(), 1);
    assert_empty(&*store);
}
