// A picture, upright as it was handed in, and boxes on it.

import QtoolsPreparation
import QtoolsVision
import SwiftUI

struct BoxesView: View {
    let picture: Picture
    let marks: [Mark]

    var body: some View {
        Canvas { context, size in
            if let image = try? picture.image() {
                context.draw(Image(decorative: image, scale: 1), in: CGRect(origin: .zero, size: size))
            }
            for mark in marks {
                let colour = Color(hue: Double(mark.index * 137 % 360) / 360, saturation: 0.9, brightness: 0.8)
                let rect = place(mark.sides, in: size)
                context.stroke(Path(rect), with: .color(colour), lineWidth: 2)
                let name = context.resolve(Text(mark.name).font(.caption).foregroundStyle(Color.white))
                let corner = CGPoint(x: max(0, rect.minX), y: max(0, rect.minY))
                let plate = CGRect(origin: corner, size: name.measure(in: size))
                context.fill(Path(plate), with: .color(colour))
                context.draw(name, in: plate)
            }
        }
        .aspectRatio(CGFloat(picture.width) / CGFloat(picture.height), contentMode: .fit)
    }
}

/// Where sides lie in a view that shows the whole picture.
private func place(_ sides: [Double], in size: CGSize) -> CGRect {
    let (left, top) = (sides[0] * size.width, sides[1] * size.height)
    return CGRect(x: left, y: top, width: sides[2] * size.width - left, height: sides[3] * size.height - top)
}
