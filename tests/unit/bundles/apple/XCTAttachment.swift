// XCTest's attachments, which Linux has not: as Apple's documentation has them and as far as our sources use them.

import Foundation
import XCTest

final class XCTAttachment {
    enum Lifetime { case keepAlways, deleteOnSuccess }
    init(data: Data, uniformTypeIdentifier: String) {}
    var name: String?
    var lifetime = Lifetime.deleteOnSuccess
}
extension XCTestCase {
    func add(_ attachment: XCTAttachment) {}
}
