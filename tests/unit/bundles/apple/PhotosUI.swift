// The picker of SwiftUI's PhotosUI, as its documentation has it and as far as our sources use it.

import SwiftUI

public protocol Transferable {}
extension Data: Transferable {}
public struct PHPickerFilter: Sendable { public static let images = PHPickerFilter() }
public struct PhotosPickerItem: Equatable, Hashable, Sendable {
    public func loadTransferable<T: Transferable>(type: T.Type) async throws -> T? { fatalError() }
}
public struct PhotosPicker: View {
    public init<S: StringProtocol>(_ title: S, selection: Binding<PhotosPickerItem?>, matching: PHPickerFilter? = nil) {}
    public var body: Never { fatalError() }
}
